"""How gradients meet, and what that costs on the links."""
