"""Who is champion: by which figures a model became it, who said so, and the way back."""
