"""Local mode: the real engine over pods that are processes of this machine."""
