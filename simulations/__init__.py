"""Studies on one machine, on Ray's workers, with the very Flower apps that are deployed."""
