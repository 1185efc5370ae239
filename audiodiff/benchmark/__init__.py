"""Speed and memory of a model on this machine, relative to its fastest matrix product and to a baseline."""
