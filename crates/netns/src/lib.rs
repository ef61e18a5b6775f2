//! weir-netns.
