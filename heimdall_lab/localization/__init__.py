"""Positions: what can be known of them, how they are estimated, and how good the estimates are.

- `bounds`, `information`, `delay_law`: dilution of precision and Cramér-Rao bounds, also where links are late.
- `observations`: what an estimator is given (`Observations`) and returns (`Fix`), and the coordinates between.
- `methods`, `estimators`: the names of the methods, and `locate`, which calls them. They are in `baselines`, `levels`
  (power), `tdoa` (time differences, with `late_links` for excess delays), `dpd` (all IQ together), `joint` (recordings
  whose emissions tell the receivers' clocks, with the equations of `shared_clocks`) and `learned` (trained networks).
- `errors`, `error_law`, `ellipses`: errors against the truth, Student's law of them, and the shapes of covariances.
- `leaderboard`: methods compared on a dataset. `sentences`, `tables`, `geojson`: fixes for people and for map programs.

A new method is a module of its own, or a package as `dpd` is, and one line in `methods`.
"""
