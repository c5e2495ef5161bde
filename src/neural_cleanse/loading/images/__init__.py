"""Clean images from files: one file a container, `load_data` in front."""
