"""What a site admin makes and checks contexts with."""
