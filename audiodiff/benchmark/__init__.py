"""How fast this machine is with a model: every figure measured in one run, beside what the machine could do at best."""
