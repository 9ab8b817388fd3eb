"""Prefect flows, one per file, and the console command `temper`."""
