"""COMPOSE: the main job, its stages, and everything that knows both host and device."""
