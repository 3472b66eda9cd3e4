"""A development server with TF Serving's protocol, in Python."""
