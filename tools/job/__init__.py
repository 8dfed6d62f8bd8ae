"""The main job on one subject, and on the whole catalogue."""
