"""Capture: the model seen as torch.fx graphs and as a list of sites."""
