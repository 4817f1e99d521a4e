package handlers

type compiled struct{}
