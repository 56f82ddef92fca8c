"""The server beneath the pages: jobs, requests of scripts, and what watches for changes."""
