"""What a user of Flower's examples would write (`flowertune`), and cotune's settings that are like it (`alike`)."""
