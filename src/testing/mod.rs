//! A test kit for handlers and codecs: the whole reactor, with no socket and no real time. (Feature `testing`.)
//!
//! Knows the loop and the scripted world below it. Invariant: nothing here is in a build without the feature.
