"""What the package reads at run time: model shapes, and in a wheel also profiles and scenarios."""
