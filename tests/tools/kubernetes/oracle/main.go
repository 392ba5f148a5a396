// The kubelet's own answers, for the differential test of tests/kubelet.rs.
//
// It reads one JSON case a line from standard input and writes one JSON answer a line. Every
// decision is made by the packages that the pinned kubelet links; this file only unpacks and packs.
// It lives in the module of the cluster's Kubernetes programs, so that the oracle and the kubelet of
// the node tests can never be of two releases. Byte strings travel as base64, because references,
// payloads and keys may hold any bytes.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"

	"github.com/distribution/reference"
	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// One question. An image alone: how is it parsed? A payload: how is it decoded? Keys and an image:
// which keys are used?
type question struct {
	Image   []byte   `json:"image"`
	Keys    [][]byte `json:"keys"`
	Payload []byte   `json:"payload"`
	Type    string   `json:"type"`
}

type imageAnswer struct {
	Name       string `json:"name"`
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	Familiar   string `json:"familiar"`
	Error      string `json:"error"`
}

type lookupAnswer struct {
	Matched  [][]byte `json:"matched"`
	Fallback bool     `json:"fallback"`
	Error    string   `json:"error"`
}

type entry struct {
	Key      []byte `json:"key"`
	Index    []byte `json:"index"` // null where the key is ignored
	Username []byte `json:"username"`
	Usable   bool   `json:"usable"`
	Padded   bool   `json:"padded"` // user name or password with surrounding white space
}

type payloadAnswer struct {
	Result  string  `json:"result"`
	Entries []entry `json:"entries"`
	Error   string  `json:"error"`
}

func parseImage(image string) imageAnswer {
	name, _, _, err := parsers.ParseImageName(image)
	if err != nil {
		return imageAnswer{Error: err.Error()}
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		panic("the kubelet's parser and the library disagree on " + image)
	}
	answer := imageAnswer{
		Name:       name,
		Registry:   reference.Domain(named),
		Repository: reference.Path(named),
		Familiar:   reference.FamiliarName(named),
	}
	if tagged, ok := named.(reference.Tagged); ok {
		answer.Tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		answer.Digest = digested.Digest().String()
	}
	return answer
}

// The index keys are in an unexported field; reading it is the only way to see them.
func indexOf(keyring *credentialprovider.BasicDockerKeyring) []string {
	field := reflect.ValueOf(keyring).Elem().FieldByName("index")
	index := make([]string, field.Len())
	for i := range index {
		index[i] = field.Index(i).String()
	}
	return index
}

// Each key carries its own text as user name, so that the credentials found name their key. They are
// added one by one: inside one configuration the kubelet walks them in random order.
func lookup(keys [][]byte, image string) lookupAnswer {
	parsed := parseImage(image)
	if parsed.Error != "" {
		return lookupAnswer{Error: parsed.Error}
	}
	keyring := &credentialprovider.BasicDockerKeyring{}
	for _, key := range keys {
		keyring.Add(nil, credentialprovider.DockerConfig{
			string(key): {Username: string(key), Password: "x"},
		})
	}
	found, ok := keyring.Lookup(parsed.Name)
	answer := lookupAnswer{Fallback: ok, Matched: [][]byte{}}
	for _, credential := range found {
		answer.Matched = append(answer.Matched, []byte(credential.Username))
	}
	for _, key := range indexOf(keyring) {
		if matched, _ := credentialprovider.URLsMatchStr(key, parsed.Name); matched {
			answer.Fallback = false
		}
	}
	return answer
}

func decode(kind v1.SecretType, payload []byte) payloadAnswer {
	dataKey := v1.DockerConfigJsonKey
	if kind == v1.SecretTypeDockercfg {
		dataKey = v1.DockerConfigKey
	}
	secret := v1.Secret{Type: kind, Data: map[string][]byte{dataKey: payload}}
	keyring, err := secrets.MakeDockerKeyring([]v1.Secret{secret}, nil)
	if err != nil {
		return payloadAnswer{Result: "error", Error: err.Error()}
	}
	if keyring == nil {
		return payloadAnswer{Result: "skipped"}
	}
	var config credentialprovider.DockerConfigJSON
	if kind == v1.SecretTypeDockercfg {
		err = json.Unmarshal(payload, &config.Auths)
	} else {
		err = json.Unmarshal(payload, &config)
	}
	if err != nil {
		panic("the keyring was made of a payload that does not decode")
	}
	return payloadAnswer{Result: "ok", Entries: entriesOf(config.Auths)}
}

func entriesOf(auths credentialprovider.DockerConfig) []entry {
	entries := []entry{}
	for key, credential := range auths {
		single := &credentialprovider.BasicDockerKeyring{}
		single.Add(nil, credentialprovider.DockerConfig{key: credential})
		var index []byte
		if keys := indexOf(single); len(keys) == 1 {
			index = []byte(keys[0])
			if index == nil {
				index = []byte{}
			}
		}
		user, password := credential.Username, credential.Password
		entries = append(entries, entry{
			Key:      []byte(key),
			Index:    index,
			Username: []byte(user),
			Usable:   user != "" && password != "",
			Padded:   strings.TrimSpace(user) != user || strings.TrimSpace(password) != password,
		})
	}
	sort.Slice(entries, func(a, b int) bool { return string(entries[a].Key) < string(entries[b].Key) })
	return entries
}

func answer(line []byte) (any, error) {
	var q question
	if err := json.Unmarshal(line, &q); err != nil {
		return nil, err
	}
	switch {
	case q.Type != "":
		return decode(v1.SecretType(q.Type), q.Payload), nil
	case q.Keys != nil:
		return lookup(q.Keys, string(q.Image)), nil
	default:
		return parseImage(string(q.Image)), nil
	}
}

func run() error {
	in := bufio.NewReader(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			reply, err := answer(line)
			if err != nil {
				return err
			}
			if err := encoder.Encode(reply); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
	}
}

func main() {
	klog.SetLogger(logr.Discard())
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet-oracle:", err)
		os.Exit(1)
	}
}
