package handlers

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/antlr/antlr4/runtime/Go/antlr"
	cesql "github.com/cloudevents/sdk-go/sql/v2"
	sqlerrors "github.com/cloudevents/sdk-go/sql/v2/errors"
	"github.com/cloudevents/sdk-go/sql/v2/gen"
	"github.com/cloudevents/sdk-go/sql/v2/parser"
	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/config"
)

// longestSQL is the length of a CESQL text, in bytes. Long ones are no use to
// anybody, and the parser's time grows faster than its input.
const longestSQL = 4096

// sqlFunctions are the functions of CESQL (source: CloudEvents SQL 1.0.0, 3.5).
var sqlFunctions = []string{
	"ABS", "BOOL", "CONCAT", "CONCAT_WS", "INT", "IS_BOOL", "IS_INT", "LEFT", "LENGTH", "LOWER",
	"RIGHT", "STRING", "SUBSTRING", "TRIM", "UPPER",
}

// sql compiles a CESQL filter. An event matches if the expression is true
// without an error: one that reads an attribute that the event lacks is an error.
func (c *compiler) sql(v config.Value) filter {
	text, ok := v.Scalar.(string)
	if v.Kind != config.KindScalar || !ok {
		c.fail(v.Pos, "filter-invalid", "such as sql: source = '/shop'", "the filter \"sql\" takes a text")
		return nil
	}
	expression, hint, err := parseSQL(text)
	if err != nil {
		c.fail(v.Pos, "filter-invalid", hint, "the CESQL expression cannot be used: %v", err)
		return nil
	}
	return func(v *View) bool {
		result, err := evaluateSQL(expression, v.raw())
		matches, _ := result.(bool)
		return err == nil && matches
	}
}

// parseSQL guards the SDK's parser, which leaves out characters that it does
// not know (and prints about them), panics on some texts, and takes functions
// that do not exist (source: sdk-go/sql/v2 2.16.2, tried).
func parseSQL(text string) (expression cesql.Expression, hint string, err error) {
	if len(text) > longestSQL {
		return nil, "", fmt.Errorf("it has more than %d bytes", longestSQL)
	}
	if strings.TrimSpace(text) == "" {
		return nil, "", errors.New("it is empty")
	}
	defer func() {
		if recover() != nil {
			expression, err = nil, errors.New("its syntax is wrong")
		}
	}()
	if hint, err := checkTokens(text); err != nil {
		return nil, hint, err
	}
	expression, err = parser.Parse(text)
	if err != nil || expression == nil {
		return nil, "", errors.New("its syntax is wrong, or a number in it is too large")
	}
	// What exists by name may still be called with the wrong number of arguments.
	if _, err := evaluateSQL(expression, event.New()); sqlerrors.IsMissingFunctionError(err) {
		return nil, "", errors.New("a function is called with the wrong number of arguments")
	}
	return expression, "", nil
}

func checkTokens(text string) (hint string, err error) {
	lexer := gen.NewCESQLParserLexer(parser.NewCaseChangingStream(antlr.NewInputStream(text), true))
	lexer.RemoveErrorListeners()
	unknown := &tokenErrors{}
	lexer.AddErrorListener(unknown)
	name := ""
	for token := lexer.NextToken(); token.GetTokenType() != antlr.TokenEOF; token = lexer.NextToken() {
		isCall := token.GetTokenType() == gen.CESQLParserLexerLR_BRACKET && name != ""
		if isCall && !slices.Contains(sqlFunctions, strings.ToUpper(name)) {
			if near := config.Nearest(name, sqlFunctions); near != "" {
				hint = fmt.Sprintf("did you mean %s?", near)
			}
			return hint, fmt.Errorf("there is no function %q", name)
		}
		name = ""
		switch token.GetTokenType() {
		case gen.CESQLParserLexerIDENTIFIER, gen.CESQLParserLexerIDENTIFIER_WITH_NUMBER, gen.CESQLParserLexerFUNCTION_IDENTIFIER_WITH_UNDERSCORE:
			name = token.GetText()
		}
	}
	if unknown.found {
		return "put texts in single quotes", fmt.Errorf("its syntax is wrong at character %d", unknown.column+1)
	}
	return "", nil
}

// tokenErrors notes the first character that is no part of CESQL.
type tokenErrors struct {
	antlr.DefaultErrorListener
	found  bool
	column int
}

func (t *tokenErrors) SyntaxError(_ antlr.Recognizer, _ any, _, column int, _ string, _ antlr.RecognitionException) {
	if !t.found {
		t.found, t.column = true, column
	}
}

var errSQLPanic = errors.New("the CESQL expression panicked")

func evaluateSQL(expression cesql.Expression, e event.Event) (result any, err error) {
	defer func() {
		if recover() != nil {
			result, err = nil, errSQLPanic
		}
	}()
	return expression.Evaluate(e)
}
