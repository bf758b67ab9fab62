"""The launcher of ``hydra/launcher=joblib``; Hydra takes launchers from this package only."""
