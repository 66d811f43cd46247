/*
 * What neither bindgen nor nginx-sys can give to Rust: variadic logging behind macros, and macro constants with
 * casts. Texts come with their length and are never used as a format.
 */
#ifndef NGX_HTTP_JWT_SHIM_H
#define NGX_HTTP_JWT_SHIM_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

/* ngx_log_error(), which is a macro: writes only if the log's level asks for it. */
void ngx_http_jwt_shim_log(ngx_uint_t level, ngx_log_t *log, const u_char *text, size_t len);

/* ngx_conf_log_error(): adds the file and the line that are being read. */
void ngx_http_jwt_shim_conf_log(ngx_uint_t level, ngx_conf_t *cf, const u_char *text, size_t len);

/* ngx_time(): nginx's cached time in seconds since the epoch. */
time_t ngx_http_jwt_shim_time(void);

/* NGX_CONF_ERROR. */
char *ngx_http_jwt_shim_conf_error(void);

/* ngx_parse_time() for a text that Rust owns: seconds if is_sec, else milliseconds; negative if it is no time. */
ngx_int_t ngx_http_jwt_shim_parse_time(const u_char *text, size_t len, ngx_uint_t is_sec);

/* ngx_parse_size() for a text that Rust owns; negative if it is no size. */
ssize_t ngx_http_jwt_shim_parse_size(const u_char *text, size_t len);

/* Limits for one match, as the start of a pattern: PCRE's own syntax, which differs between its versions. */
const char *ngx_http_jwt_shim_regex_limits(void);

/* ngx_post_event() to ngx_posted_events, and ngx_delete_posted_event() where the event is posted. */
void ngx_http_jwt_shim_post_event(ngx_event_t *ev);
void ngx_http_jwt_shim_delete_posted(ngx_event_t *ev);

#endif
