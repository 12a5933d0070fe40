package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// flux holds the health checks of a Kustomization.
type flux map[schema.GroupKind]*cel.StatusEvaluator

func readFlux(file string) (flux, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	// Each check strictly, with Flux's own type: a misspelt field would be no check at all.
	var kustomization struct {
		Spec struct {
			HealthCheckExprs []json.RawMessage `json:"healthCheckExprs"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &kustomization); err != nil {
		return nil, err
	}
	checks := flux{}
	for _, raw := range kustomization.Spec.HealthCheckExprs {
		var check kustomize.CustomHealthCheck
		if err := yaml.UnmarshalStrict(raw, &check); err != nil {
			return nil, err
		}
		evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", check.Kind, err)
		}
		checks[schema.FromAPIVersionAndKind(check.APIVersion, check.Kind).GroupKind()] = evaluator
	}
	return checks, nil
}

func (checks flux) health(object *unstructured.Unstructured) (string, error) {
	kind := object.GroupVersionKind().GroupKind()
	evaluator, ok := checks[kind]
	if !ok {
		return "", fmt.Errorf("the Kustomization has no check for %s", kind)
	}
	result, err := evaluator.Evaluate(context.Background(), object)
	if err != nil {
		return "", err
	}
	return result.Status.String(), nil
}
