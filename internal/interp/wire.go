package interp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// jupyterVersion is the version of the messaging protocol that is spoken.
const jupyterVersion = "5.3"

// delimiter stands between a message's addresses and its signature.
var delimiter = []byte("<IDS|MSG>")

// jupyterHeader heads each message; the parent of an answer is the header of what
// it answers.
type jupyterHeader struct {
	ID       string `json:"msg_id"`
	Session  string `json:"session"`
	Username string `json:"username"`
	Date     string `json:"date"`
	Type     string `json:"msg_type"`
	Version  string `json:"version"`
}

// jupyterMessage is what is of use of a message that a kernel sent.
type jupyterMessage struct {
	Type    string
	Parent  string // the id of the request that it belongs to
	Content json.RawMessage
}

// encodeMessage returns the frames of a request, signed with key, and its id.
func encodeMessage(key, session, typ string, content any) (frames [][]byte, id string, err error) {
	id = uuid.NewString()
	header, err := json.Marshal(jupyterHeader{
		ID: id, Session: session, Username: "bulkhead", Type: typ, Version: jupyterVersion,
		Date: time.Now().UTC().Format(time.RFC3339Nano),
	})
	if err != nil {
		return nil, "", fmt.Errorf("encode header: %w", err)
	}
	body, err := json.Marshal(content)
	if err != nil {
		return nil, "", fmt.Errorf("encode %s: %w", typ, err)
	}
	parts := [][]byte{header, []byte("{}"), []byte("{}"), body}
	return append([][]byte{delimiter, sign(key, parts)}, parts...), id, nil
}

var errMessage = errors.New("not a message of the Jupyter protocol")

// decodeMessage checks and reads the frames of a message.
func decodeMessage(key string, frames [][]byte) (jupyterMessage, error) {
	start := slices.IndexFunc(frames, func(f []byte) bool { return bytes.Equal(f, delimiter) })
	if start < 0 || len(frames) < start+6 {
		return jupyterMessage{}, errMessage
	}
	signature, parts := frames[start+1], frames[start+2:start+6]
	if !hmac.Equal(signature, sign(key, parts)) {
		return jupyterMessage{}, fmt.Errorf("%w: wrong signature", errMessage)
	}
	var header, parent jupyterHeader
	if err := json.Unmarshal(parts[0], &header); err != nil {
		return jupyterMessage{}, fmt.Errorf("%w: header: %w", errMessage, err)
	}
	if err := json.Unmarshal(parts[1], &parent); err != nil {
		return jupyterMessage{}, fmt.Errorf("%w: parent header: %w", errMessage, err)
	}
	return jupyterMessage{Type: header.Type, Parent: parent.ID, Content: parts[3]}, nil
}

// sign returns the signature of a message's parts in hexadecimal.
func sign(key string, parts [][]byte) []byte {
	mac := hmac.New(sha256.New, []byte(key))
	for _, p := range parts {
		_, _ = mac.Write(p)
	}
	return hex.AppendEncode(nil, mac.Sum(nil))
}

// The contents of the messages that are sent or read.
type (
	executeRequest struct {
		Code         string   `json:"code"`
		Silent       bool     `json:"silent"`
		StoreHistory bool     `json:"store_history"`
		Expressions  struct{} `json:"user_expressions"`
		AllowStdin   bool     `json:"allow_stdin"`
		StopOnError  bool     `json:"stop_on_error"`
	}

	// outputContent joins the fields of all messages that answer a request.
	outputContent struct {
		State     string                     `json:"execution_state"` // status
		Count     int                        `json:"execution_count"` // execute_input
		Stream    string                     `json:"name"`            // stream
		Text      string                     `json:"text"`
		Data      map[string]json.RawMessage `json:"data"` // display_data, execute_result
		Status    string                     `json:"status"`
		Name      string                     `json:"ename"` // error, execute_reply
		Value     string                     `json:"evalue"`
		Traceback []string                   `json:"traceback"`
		Fence     string                     `json:"id"` // fenceType
	}
)
