"""Code that the bundle's configs name: networks, losses, data, transforms, metrics and engines."""
