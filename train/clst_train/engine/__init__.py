"""What a run needs around the method: its folder, its optimizer, how it is checked, stopped, resumed and reported."""
