"""Images and videos: geometry, files, frames, overlays."""
