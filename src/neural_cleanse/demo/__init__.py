"""What `neural-cleanse demo` scans; made by benchmarks/make_demo.py, see SOURCES.md for origin and licence."""
