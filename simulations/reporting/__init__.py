"""What a run says in the end: the report, its tables and pictures, and how reports of several seeds merge."""
