"""Load a trained model, predict, evaluate, export."""
