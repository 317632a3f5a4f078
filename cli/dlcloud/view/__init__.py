"""What a run looks like to its user: one snapshot, drawn as plain lines or as a live screen."""
