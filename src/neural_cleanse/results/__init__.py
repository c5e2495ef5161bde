"""What leaves the core: frozen values and their files."""
