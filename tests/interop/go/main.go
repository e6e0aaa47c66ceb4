// Command interop-go calls the authentication service from code generated from its protos: it logs
// in, validates, refreshes and revokes, and sees that a wrong password is refused as documented.
// AUTHN_ADDRESS, AUTHN_IDENTIFIER and AUTHN_PASSWORD tell it where and as whom.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	authnv1 "authn.test/interop/gen/authn/v1"
)

const deadline = 30 * time.Second

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "not ok - go: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	connection, err := grpc.NewClient(
		os.Getenv("AUTHN_ADDRESS"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := authnv1.NewAuthServiceClient(connection)
	if err := session(ctx, client); err != nil {
		return err
	}
	return badPassword(ctx, client)
}

// session lives one session through, from its login to its end.
func session(ctx context.Context, client authnv1.AuthServiceClient) error {
	login, err := client.Login(ctx, loginRequest(os.Getenv("AUTHN_PASSWORD")))
	if err != nil {
		return fmt.Errorf("Login: %w", err)
	}
	first := login.GetTokens()
	ok("Login gives a session, an access token and a refresh token")
	if err := wantActive(ctx, client, first); err != nil {
		return err
	}
	ok("Validate finds the access token active, of that session")

	refresh, err := client.Refresh(
		ctx, &authnv1.RefreshRequest{RefreshToken: first.GetRefreshToken()},
	)
	if err != nil {
		return fmt.Errorf("Refresh: %w", err)
	}
	second := refresh.GetTokens()
	if second.GetRefreshToken() == first.GetRefreshToken() {
		return fmt.Errorf("Refresh gave the old refresh token back")
	}
	if second.GetSessionId() != first.GetSessionId() {
		return fmt.Errorf("Refresh changed the session")
	}
	ok("Refresh gives the next pair of the same session")
	if err := wantActive(ctx, client, second); err != nil {
		return err
	}
	ok("Validate finds the refreshed access token active")

	target := &authnv1.RevokeRequest_RefreshToken{RefreshToken: second.GetRefreshToken()}
	if _, err := client.Revoke(ctx, &authnv1.RevokeRequest{Target: target}); err != nil {
		return fmt.Errorf("Revoke: %w", err)
	}
	ok("Revoke ends the session")
	verdict, err := client.Validate(
		ctx, &authnv1.ValidateRequest{AccessToken: second.GetAccessToken()},
	)
	if err != nil {
		return fmt.Errorf("Validate: %w", err)
	}
	want := authnv1.InactiveReason_INACTIVE_REASON_SESSION_REVOKED
	if verdict.GetActive() || verdict.GetInactiveReason() != want {
		return fmt.Errorf("after Revoke: active=%t, %s", verdict.GetActive(), verdict.GetInactiveReason())
	}
	ok("Validate finds the access token inactive: " + want.String())
	return nil
}

// badPassword sees the status and the reason of a login that is refused.
func badPassword(ctx context.Context, client authnv1.AuthServiceClient) error {
	_, err := client.Login(ctx, loginRequest("not the password of anybody"))
	seen := status.Convert(err)
	if seen.Code() != codes.Unauthenticated {
		return fmt.Errorf("bad password: %v", err)
	}
	for _, detail := range seen.Details() {
		info, found := detail.(*errdetails.ErrorInfo)
		if found && info.GetReason() == "INVALID_CREDENTIALS" && info.GetDomain() == "authn" {
			ok("a bad password is UNAUTHENTICATED with ErrorInfo INVALID_CREDENTIALS of authn")
			return nil
		}
	}
	return fmt.Errorf("bad password: no ErrorInfo INVALID_CREDENTIALS in %v", seen.Details())
}

func wantActive(
	ctx context.Context, client authnv1.AuthServiceClient, tokens *authnv1.TokenPair,
) error {
	verdict, err := client.Validate(
		ctx, &authnv1.ValidateRequest{AccessToken: tokens.GetAccessToken()},
	)
	if err != nil {
		return fmt.Errorf("Validate: %w", err)
	}
	if !verdict.GetActive() || verdict.GetClaims().GetSessionId() != tokens.GetSessionId() {
		return fmt.Errorf("Validate: active=%t, %s", verdict.GetActive(), verdict.GetInactiveReason())
	}
	return nil
}

func loginRequest(password string) *authnv1.LoginRequest {
	return &authnv1.LoginRequest{
		Credentials: &authnv1.LoginRequest_Password{
			Password: &authnv1.PasswordCredentials{
				Identifier: os.Getenv("AUTHN_IDENTIFIER"),
				Password:   password,
			},
		},
		ClientId:    "interop-go",
		DeviceLabel: "interop",
	}
}

func ok(text string) {
	fmt.Println("ok - go: " + text)
}
