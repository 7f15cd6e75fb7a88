// Package inject holds the tests of injection on a real cluster: that the API server
// takes what it gives, and that the pods then work as they did.
package inject
