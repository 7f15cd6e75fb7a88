// Package weirpb is the protobuf API of Weir, package weir.v1: messages, gRPC
// client and server, and the HTTP/JSON gateway, all generated from weir.proto
// by `make generate`, with the OpenAPI document beside them. The contract is
// weir.proto; read it instead of this package.
package weirpb
