"""MONAI transforms of the bundle."""
