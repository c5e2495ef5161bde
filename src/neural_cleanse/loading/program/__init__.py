"""Files that are programs: what they hold without running them, and conversion in a sandboxed child."""
