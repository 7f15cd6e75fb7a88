// Package emojipb holds the gRPC services of the sample application, generated
// from emoji.proto by `make generate`.
package emojipb
