#include "shim.h"

void
ngx_http_jwt_shim_log(ngx_uint_t level, ngx_log_t *log, const u_char *text, size_t len)
{
    ngx_log_error(level, log, 0, "%*s", len, text);
}

void
ngx_http_jwt_shim_conf_log(ngx_uint_t level, ngx_conf_t *cf, const u_char *text, size_t len)
{
    ngx_conf_log_error(level, cf, 0, "%*s", len, text);
}

time_t
ngx_http_jwt_shim_time(void)
{
    return ngx_time();
}

char *
ngx_http_jwt_shim_conf_error(void)
{
    return NGX_CONF_ERROR;
}

ngx_int_t
ngx_http_jwt_shim_parse_time(const u_char *text, size_t len, ngx_uint_t is_sec)
{
    ngx_str_t  line;

    /* ngx_parse_time() reads only. */
    line.data = (u_char *) text;
    line.len = len;

    return ngx_parse_time(&line, is_sec);
}

ssize_t
ngx_http_jwt_shim_parse_size(const u_char *text, size_t len)
{
    ngx_str_t  line;

    /* ngx_parse_size() reads only. */
    line.data = (u_char *) text;
    line.len = len;

    return ngx_parse_size(&line);
}

const char *
ngx_http_jwt_shim_regex_limits(void)
{
#if (NGX_PCRE2)
    return "(*LIMIT_MATCH=10000)(*LIMIT_DEPTH=5000)";
#else
    return "(*LIMIT_MATCH=10000)(*LIMIT_RECURSION=5000)";
#endif
}

void
ngx_http_jwt_shim_post_event(ngx_event_t *ev)
{
    ngx_post_event(ev, &ngx_posted_events);
}

void
ngx_http_jwt_shim_delete_posted(ngx_event_t *ev)
{
    if (ev->posted) {
        ngx_delete_posted_event(ev);
    }
}
