"""Studies on one machine, on Flower's Ray engine, with the very apps that are deployed."""
