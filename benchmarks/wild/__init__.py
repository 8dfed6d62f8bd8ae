"""Public networks as a user would first type them: what the main job makes of each, and a page that says so."""
