"""A ScanResult for people: in the terminal, as pictures, as one HTML page. Knows records, no classifier."""
