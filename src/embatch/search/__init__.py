"""What people do with vectors: cut documents into chunks, keep an index in step with a folder, find."""
