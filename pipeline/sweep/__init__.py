"""The whole catalogue through the main job."""
