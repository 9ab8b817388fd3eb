"""From evidence and a verdict to what people read: an HTML page, markdown, a console table."""
