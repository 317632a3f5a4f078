"""A stand-in kubelet for the rig's control plane: its pods are processes of this machine, or are played."""

from .node import Kubelet
from .played import Play

__all__ = ["Kubelet", "Play"]
