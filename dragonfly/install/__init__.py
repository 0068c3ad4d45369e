"""What is installed here and what can be reached from here. `detection` decides, `survey` looks."""
