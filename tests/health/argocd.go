package main

import (
	"context"
	"fmt"
	"os"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// argoCD holds the health checks of an argocd-cm by key.
type argoCD map[string]string

func readArgoCD(file string) (argoCD, error) {
	var configMap struct {
		Data map[string]string `json:"data"`
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return configMap.Data, yaml.Unmarshal(text, &configMap)
}

func healthKey(kind schema.GroupVersionKind) string {
	return "resource.customizations.health." + kind.Group + "_" + kind.Kind
}

// health runs the script as Argo CD does: with the libraries that it opens and in its time (util/lua/lua.go there),
// and without it for what is being deleted (pkg/health/health.go of its gitops-engine).
func (checks argoCD) health(object *unstructured.Unstructured) (health, message string, err error) {
	if object.GetDeletionTimestamp() != nil {
		return "Progressing", "Pending deletion", nil
	}
	key := healthKey(object.GroupVersionKind())
	script, ok := checks[key]
	if !ok {
		return "", "", fmt.Errorf("the ConfigMap has no key %s", key)
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", "", err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", toLua(state, object.Object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script answers with a %s and not with a table", state.Get(-1).Type())
	}
	said, ok := table.RawGetString("status").(lua.LString)
	switch said {
	case "Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown":
	default:
		ok = false
	}
	if !ok {
		return "", "", fmt.Errorf("the script's status %v is no health", table.RawGetString("status"))
	}
	words, ok := table.RawGetString("message").(lua.LString)
	if !ok {
		return "", "", fmt.Errorf("the script's message %v is no text", table.RawGetString("message"))
	}
	return string(said), string(words), nil
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}
