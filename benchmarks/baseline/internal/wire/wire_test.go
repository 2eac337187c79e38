package wire

import (
	"reflect"
	"testing"
)

// A response is read back as it was written, with its endpoint ports.
func TestReadResponseReturnsWhatAppendResponseWrote(t *testing.T) {
	body := LoadAssignment("bench", "10.0.0.1", []uint32{10_007, 2, 3})
	encoded := AppendResponse(nil, Types["eds"], "n1", Resource{Name: "bench", Version: "v7", Body: body})

	response, err := ReadResponse(encoded)
	if err != nil {
		t.Fatal(err)
	}
	want := Response{Type: Types["eds"], Nonce: "n1", Resources: []Resource{{Name: "bench", Version: "v7", Body: body}}}
	if !reflect.DeepEqual(response, want) {
		t.Errorf("got %+v, want %+v", response, want)
	}
	port, err := MaxPort(response.Resources[0].Body)
	if err != nil || port != 10_007 {
		t.Errorf("MaxPort: got %d, %v, want 10007", port, err)
	}
}

// Every prefix of a response is either read or refused; none panics.
func TestReadResponseRefusesTruncation(t *testing.T) {
	body := LoadAssignment("bench", "10.0.0.1", []uint32{1})
	encoded := AppendResponse(nil, Types["eds"], "n1", Resource{Name: "bench", Version: "v1", Body: body})
	refused := 0
	for i := range encoded {
		if _, err := ReadResponse(encoded[:i]); err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no truncated response was refused")
	}
}

// A request is read back with its subscription and nonce.
func TestReadRequestReturnsWhatAppendWrote(t *testing.T) {
	request := Request{
		NodeID: "a.b", Type: Types["eds"], Subscribe: []string{"x", "y"},
		InitialVersions: map[string]string{"x": "1"}, Nonce: "n",
	}
	got, err := ReadRequest(request.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := Request{Type: Types["eds"], Subscribe: []string{"x", "y"}, Nonce: "n"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
