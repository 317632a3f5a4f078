"""The commands, a module for each group: options and help here, the work elsewhere, imported when it is needed."""
