// Package shoppb holds the generated code of shop.proto and nothing written by hand.
//
// To generate it again, from the repository's root (the plugins must be on the PATH):
//
//	go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
//	go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
//	uv run --with grpcio-tools go generate -C examples/go-services ./shoppb
package shoppb

//go:generate python -m grpc_tools.protoc -I .. --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative ../shop.proto
