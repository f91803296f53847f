package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// restoreRequest is the body of vm.restore.
type restoreRequest struct {
	SourceURL *string `json:"source_url"`
	Prefault  bool    `json:"prefault"`
	Mode      string  `json:"memory_restore_mode"`
	Resume    bool    `json:"resume"`
}

type urlRequest struct {
	DestinationURL *string `json:"destination_url"`
}

func errDeserialise(message string) *apiError {
	return &apiError{status: 400, chain: []string{"Failed to deserialize JSON", message}}
}

// position is serde_json's place of the end of a document: 1-based line, and
// the number of bytes of that line that were read.
func position(b []byte) string {
	b = bytes.TrimRight(b, " \t\r\n")
	line := bytes.Count(b, []byte("\n")) + 1
	column := len(b) - (bytes.LastIndexByte(b, '\n') + 1)
	return fmt.Sprintf("at line %d column %d", line, column)
}

// serdeMessage approximates the text serde_json gives for a bad document.
func serdeMessage(b []byte, err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Error() == "unexpected end of JSON input" {
		what := "a value"
		switch trimmed := bytes.TrimSpace(b); {
		case bytes.HasPrefix(trimmed, []byte("{")):
			what = "an object"
		case bytes.HasPrefix(trimmed, []byte("[")):
			what = "a list"
		}
		return fmt.Sprintf("EOF while parsing %s %s", what, position(b))
	}
	return fmt.Sprintf("%v %s", err, position(b))
}

// decode reads a request body into v; unknown fields are ignored.
func decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return errDeserialise(serdeMessage(body, err))
	}
	return nil
}

func missingField(body []byte, name string) error {
	return errDeserialise(fmt.Sprintf("missing field `%s` %s", name, position(body)))
}
