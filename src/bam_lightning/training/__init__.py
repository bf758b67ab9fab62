"""The Lightning module and data module, distillation, optimizer, callbacks and process groups."""
