"""Positions: bounds, estimators, their errors, and the leaderboard that compares them."""
